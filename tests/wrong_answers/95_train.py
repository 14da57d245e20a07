"Plausible mistakes in the exercise of chapter 95; each must be rejected."
WRONG = {
    "check_share_below": [
        """def share_below(schedule, fraction, steps):
    return sum(rate(k, steps, schedule) < fraction - 1e-12 for k in range(steps))""",        # no share
        """def share_below(schedule, fraction, steps):
    return sum(rate(k, steps, schedule) > fraction for k in range(steps))/steps""",
        """def share_below(schedule, fraction, steps):
    return sum(rate(k, steps) < fraction - 1e-12 for k in range(steps))/steps""",                # always cosine
        # the rate after the last step is nobody's
        """def share_below(schedule, fraction, steps):
    return sum(rate(k, steps, schedule) < fraction - 1e-12 for k in range(1, steps + 1))/steps""",
    ],
}
