"Answers that a reader might give and that the checkers of chapter 14 must reject."
WRONG = {
    "check_masked": [
        "def masked_norm(x, num_groups, mask): return apply(x, moments(x, num_groups, mask))",      # the padding stays
        '''def masked_norm(x, num_groups, mask):                     # NaN times 0 is NaN
    return apply(x, moments(x, num_groups, mask))*mask''',
        '''def masked_norm(x, num_groups, mask):                     # statistics of the padding too
    x = torch.where(mask, x, 0)
    return torch.where(mask, apply(x, moments(x, num_groups)), 0)''',
        '''def masked_norm(x, num_groups, mask):                     # 0 times NaN in the gradient of rstd
    return torch.where(mask, apply(x, moments(x, num_groups, mask)), 0)''',
        '''def masked_norm(x, num_groups, mask):                     # the wrong way round
    return torch.where(mask, 0, apply(x, moments(x, num_groups, mask)))''',
    ],
    "check_causal": [
        "def causal(chunks, num_groups): return [apply(c, moments(c, num_groups)) for c in chunks]",        # no past
        '''def causal(chunks, num_groups):                           # the future
    chunks = list(chunks)
    whole = reduce(merge, (moments(c, num_groups) for c in chunks))
    return [apply(c, whole) for c in chunks]''',
        '''def causal(chunks, num_groups):                           # the past alone
    seen, found = None, []
    for c in chunks:
        here = moments(c, num_groups)
        found.append(apply(c, seen or here))
        seen = here if seen is None else merge(seen, here)
    return found''',
        '''def causal(chunks, num_groups):                           # only the chunk before
    last, found = None, []
    for c in chunks:
        here = moments(c, num_groups)
        found.append(apply(c, here if last is None else merge(last, here)))
        last = here
    return found''',
    ],
    "check_overlapping": [
        '''def overlapping(x, num_groups, size, step):               # counts twice
    return merge(*(moments(x[..., k:k + size], num_groups) for k in range(0, x.shape[2], step)))''',
        '''def overlapping(x, num_groups, size, step):               # the first `step` of each: loses the end
    return merge(*(moments(x[..., k:k + step], num_groups) for k in range(0, x.shape[2] - size + 1, step)))''',
        '''def overlapping(x, num_groups, size, step):               # the last tiles have little that is new
    parts = [moments(x[..., :size], num_groups)]
    for k in range(step, x.shape[2], step): parts.append(moments(x[..., k + step:k + size], num_groups))
    return merge(*parts)''',
    ],
    "check_lost": [
        '''def lost(*parts):                                         # every part counts the same
    n, mean, _ = merge(*parts)
    return sum((m - mean).square() for _, m, _ in parts)/len(parts)''',
        '''def lost(*parts):                                         # a sum, not an average
    n, mean, _ = merge(*parts)
    return sum(count*(m - mean).square() for count, m, _ in parts)''',
        '''def lost(*parts):                                         # from a mean that ignores the counts
    n, mean = merge(*parts)[0], sum(m for _, m, _ in parts)/len(parts)
    return sum(count*(m - mean).square() for count, m, _ in parts)/n''',
        '''def lost(*parts):                                         # from parts that all count the same
    n, mean, M2 = merge(*parts)
    return M2/n - sum(M2/count for count, _, M2 in parts)/len(parts)''',
    ],
}
