"""One share of a Monte Carlo estimate: the price of a European call option.

Arguments: how many paths to draw, and the seed of this share. Prints the sums that the shares of
all jobs are added up from.
"""

import json
import math
import random
import sys

SPOT, STRIKE, RATE, VOLATILITY, YEARS = 100.0, 100.0, 0.05, 0.2, 1.0


def main() -> None:
    paths, seed = int(sys.argv[1]), int(sys.argv[2])
    draw = random.Random(seed).gauss
    drift = (RATE - VOLATILITY**2 / 2) * YEARS
    spread = VOLATILITY * math.sqrt(YEARS)
    discount = math.exp(-RATE * YEARS)
    total = squares = 0.0
    for _ in range(paths):
        price = SPOT * math.exp(drift + spread * draw(0.0, 1.0))
        payoff = discount * max(0.0, price - STRIKE)
        total += payoff
        squares += payoff * payoff
    print(json.dumps({"paths": paths, "total": total, "squares": squares}))


main()
