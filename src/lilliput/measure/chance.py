"""Whether a difference could be chance."""

from __future__ import annotations

import math

LEVEL = 0.05  # how often equally accurate networks differ as much, above which no difference is claimed


def mcnemar(lost: int, gained: int) -> float:
    """How likely so uneven a split is where either way is as likely, two-sided: McNemar's test by binomial sums.

    McNemar 1947, doi:10.1007/BF02295996. Above a few hundred changed answers by the normal curve, corrected for steps.

    >>> mcnemar(0, 0), mcnemar(5, 0), mcnemar(3, 3)
    (1.0, 0.0625, 1.0)
    """
    changed, fewer = lost + gained, min(lost, gained)
    if changed > 500:
        return math.erfc(max(abs(lost - gained) - 1, 0) / math.sqrt(2 * changed))
    return min(1.0, 2 * sum(math.comb(changed, k) for k in range(fewer + 1)) / 2**changed)


def difference(lost: int, gained: int, total: int) -> tuple[float, float]:
    """The 95 % interval of the accuracy that a network has beyond another, as a share, from the same `total` images.

    (gained − lost) / total, with half an image added to each of the four ways both may answer and Wald's interval around it:
    Agresti and Min 2005, doi:10.1002/sim.1781.

    >>> low, high = difference(114, 122, 5000)
    >>> f"{100 * low:.1f} to {100 * high:.1f} points"
    '-0.4 to 0.8 points'
    """
    less, more, images = lost + 0.5, gained + 0.5, total + 2.0
    middle = (more - less) / images
    spread = 1.96 * math.sqrt(max(0.0, more + less - images * middle**2)) / images
    return max(-1.0, middle - spread), min(1.0, middle + spread)
