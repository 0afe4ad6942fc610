#!/usr/bin/env bash
# Statistics of a text on standard input, in Bash alone: lines, words, and how often each long word
# occurs (argument: how many letters make a word long).
set -euo pipefail
long=${1:-5}
declare -A seen=()
lines=0 words=0
while IFS= read -r line || [[ -n $line ]]; do
  lines=$((lines + 1))
  line=${line,,}
  for word in ${line//[^a-z]/ }; do
    words=$((words + 1))
    if ((${#word} >= long)); then
      seen[$word]=$((${seen[$word]:-0} + 1))
    fi
  done
done
echo "lines $lines"
echo "words $words"
for word in "${!seen[@]}"; do
  echo "word $word ${seen[$word]}"
done
