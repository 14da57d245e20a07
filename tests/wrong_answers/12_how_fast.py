"Plausible mistakes in the exercises of chapter 12; each must be rejected."
WRONG = {
    "check_mean": [
        "def mean_ratio(ours, theirs): return sum(b/a for a, b in zip(ours, theirs))/len(ours)",      # arithmetic
        "def mean_ratio(ours, theirs): return sum(theirs)/sum(ours)",                   # long layers count more
        "def mean_ratio(ours, theirs): return len(ours)/sum(a/b for a, b in zip(ours, theirs))",      # harmonic
        "def mean_ratio(ours, theirs): return math.sqrt(math.prod(b/a for a, b in zip(ours, theirs)))",  # always root 2
        "def mean_ratio(ours, theirs): return math.exp(sum(math.log(a/b) for a, b in zip(ours, theirs))/len(ours))",
    ],
    "check_share": [
        "def best_share(group_bytes, cache_bytes): return 1",                          # the second read is free
        "def best_share(group_bytes, cache_bytes): return 1 if group_bytes <= cache_bytes else 1/2",  # no write
        "def best_share(group_bytes, cache_bytes): return 1 if group_bytes < cache_bytes else 2/3",   # that still fits
        "def best_share(group_bytes, cache_bytes): return 1 if group_bytes <= cache_bytes else 3/2",  # upside down
        "def best_share(group_bytes, cache_bytes): return min(1, cache_bytes/group_bytes)",     # a share of the group
    ],
    "check_break_even": [
        "def break_even(extra, ours, theirs): return extra*ours",                       # what ours moves meanwhile
        "def break_even(extra, ours, theirs): return extra*(ours - theirs)",            # rates are not times
        "def break_even(extra, ours, theirs): return extra/(1/theirs - 1/ours) if ours != theirs else math.inf",  # < 0
        "def break_even(extra, ours, theirs): return extra/(1/ours - 1/theirs) if ours > theirs else 9",
        "def break_even(extra, ours, theirs): return extra*ours*theirs/(ours - theirs)",
    ],
}
