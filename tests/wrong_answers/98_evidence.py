"Plausible mistakes in the exercise of chapter 98; each must be rejected."
WRONG = {
    "check_share_worse": [
        # pairs by position, not by seed
        "def share_worse(a, b): return sum(error(r) > error(s) for r, s in zip(a, b))/min(len(a), len(b))",
        # leaves out the run that failed
        """def share_worse(a, b):
    of_a, of_b = paired([r for r in a if r["status"] == "done"], b)
    return float((of_a > of_b).mean())""",
        # a tie is not worse
        """def share_worse(a, b):
    of_a, of_b = paired(a, b)
    return float((of_a >= of_b).mean())""",
        # of all seeds, not of those that both have
        """def share_worse(a, b):
    of_a, of_b = paired(a, b)
    return float((of_a > of_b).sum())/max(len(a), len(b))""",
        # on the validation set
        """def share_worse(a, b):
    of_a, of_b = paired(a, b, value=lambda r: error(r, "val"))
    return float((of_a > of_b).mean())""",
    ],
}
