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
