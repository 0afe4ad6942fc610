"""How many primes are below a million? Twenty jobs count a share each.

Run it after `gridx login`:  python examples/primes.py
"""

from gridx import Client

SHARES, LIMIT = 20, 1_000_000
COUNT = """
import sys
first, end = int(sys.argv[1]), int(sys.argv[2])
small = [n for n in range(2, 1001) if all(n % d for d in range(2, int(n**0.5) + 1))]
sieve = bytearray([1]) * (end - first)
for prime in small:
    start = max(prime * prime, -(-first // prime) * prime)
    sieve[start - first :: prime] = bytes(len(range(start, end, prime)))
print(sum(sieve) - (first == 0) * 2)
"""


def main() -> None:
    width = LIMIT // SHARES
    with Client() as grid:
        jobs = grid.submit_batch(
            [
                {
                    "code": COUNT,
                    "args": [str(n * width), str((n + 1) * width)],
                    "name": f"share {n}",
                }
                for n in range(SHARES)
            ]
        )
        views = [job.wait() for job in jobs]
    found = sum(int(view.stdout) for view in views)
    print(f"{found} primes below {LIMIT:,}, counted by {len({v.worker_id for v in views})} workers")


if __name__ == "__main__":
    main()
