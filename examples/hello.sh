#!/usr/bin/env bash
# A job: `gridx run examples/hello.sh you`
echo "hello ${1:-world}, from $(nproc) processors"
