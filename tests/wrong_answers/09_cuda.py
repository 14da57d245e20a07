"Plausible mistakes in the exercises of chapter 9; each must be rejected."
WRONG = {
    "check_shuffles": [
        "answer = ((8, 0), (5, 0))",        # a shuffle does not leave its warp
        "answer = ((5, 1), (5, 0))",        # forgets to add up the warps
        "answer = ((255, 1), (31, 0))",     # one addition for each thread
        "answer = ((8, 1), (6, 1))",        # counts a warp as if it were two
    ],
    "check_merged": [
        '''def merged(parts):                                     # every part weighs the same
    M = sum(n for n, _, _ in parts)
    mean = sum(m for _, m, _ in parts)/len(parts)
    return M, mean, sum(m2 + n*(m - mean)**2 for n, m, m2 in parts)''',
        '''def merged(parts):                                     # forgets that the means differ
    M = sum(n for n, _, _ in parts)
    return M, sum(n*m for n, m, _ in parts)/M, sum(m2 for _, _, m2 in parts)''',
        '''def merged(parts):                                     # squares first, the mean subtracted afterwards
    M = sum(n for n, _, _ in parts)
    mean = sum(n*m for n, m, _ in parts)/M
    return M, mean, sum(m2 + n*m**2 for n, m, m2 in parts) - M*mean**2''',
        '''def merged(parts):                                     # spread of the means, not weighted
    M = sum(n for n, _, _ in parts)
    mean = sum(n*m for n, m, _ in parts)/M
    return M, mean, sum(m2 + (m - mean)**2 for n, m, m2 in parts)''',
    ],
    "check_blocks": [
        "def blocks_needed(vectors): return math.ceil(132*25_000/(256*16*vectors))",     # they do not share a block
        "def blocks_needed(vectors): return 132",
        "def blocks_needed(vectors): return 132*math.ceil(25_000/(256*vectors))",        # forgets the 16 bytes
        "def blocks_needed(vectors): return 132*round(25_000/(256*16*vectors))",         # rounds down too
    ],
}
