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
    "check_row_sums": [
        "def row_sums(p):\n"                                                               # no barrier
        "    share(p, thread(), p.x[block(), thread()])\n"
        "    if thread() == 0: p.y[block()] = shared(p, 0, np.empty(p.threads)).sum()",
        "def row_sums(p):\n"                                                               # a shuffle is no barrier
        "    share(p, thread(), p.x[block(), thread()])\n"
        "    if p.threads > 1: exchange(p, 0, 1)\n"
        "    if thread() == 0: p.y[block()] = shared(p, 0, np.empty(p.threads)).sum()",
        "def row_sums(p):\n"                                                               # one thread reads all
        "    if thread() == 0: p.y[block()] = sum(p.x[block(), t] for t in range(p.threads))",
        "def row_sums(p):\n"                                                               # all write to one place
        "    share(p, 0, p.x[block(), thread()])\n"
        "    barrier()\n"
        "    if thread() == 0: p.y[block()] = shared(p, 0, np.empty(p.threads)).sum()",
        "def row_sums(p):\n"                                                               # every block adds row 0
        "    share(p, thread(), p.x[0, thread()])\n"
        "    barrier()\n"
        "    if thread() == 0: p.y[block()] = shared(p, 0, np.empty(p.threads)).sum()",
        "def row_sums(p):\n"                                                               # every thread reads the row
        "    share(p, thread(), p.x[block()][thread()])\n"
        "    barrier()\n"
        "    if thread() == 0: p.y[block()] = shared(p, 0, np.empty(p.threads)).sum()",
    ],
    "check_all_mean": [
        "def all_mean(p):\n"                                                               # every thread reads all
        "    p.y[block(), thread()] = p.x[block()].mean()",
        "def all_mean(p):\n"                                                               # the same, one by one
        "    p.y[block(), thread()] = sum(p.x[block(), t] for t in range(p.threads))/p.threads",
        "def all_mean(p):\n"                                                               # by way of the results
        "    p.y[block(), thread()] = p.x[block(), thread()]\n"
        "    barrier()\n"
        "    mean = p.y[block()].mean()\n"
        "    barrier()\n"
        "    p.y[block(), thread()] = mean",
        "def all_mean(p):\n"                                                               # one exchange
        "    v = p.x[block(), thread()]\n"
        "    p.y[block(), thread()] = (v + exchange(p, v, 1))/2 if p.threads > 1 else v",
        "def all_mean(p):\n"                                                               # always for eight threads
        "    v = p.x[block(), thread()]\n"
        "    for mask in (1, 2, 4):\n"
        "        if mask < p.threads: v = v + exchange(p, v, mask)\n"
        "    p.y[block(), thread()] = v/8",
        "def all_mean(p):\n"                                                               # only thread 0 writes
        "    v, mask = p.x[block(), thread()], 1\n"
        "    while mask < p.threads: v = v + exchange(p, v, mask); mask *= 2\n"
        "    if thread() == 0: p.y[block(), 0] = v/p.threads",
        "def all_mean(p):\n"                                                               # by shared memory
        "    share(p, thread(), p.x[block(), thread()])\n"
        "    barrier()\n"
        "    p.y[block(), thread()] = shared(p, 0, np.empty(p.threads)).mean()",
        "def all_mean(p):\n"                                                               # its own number is lost
        "    v, mask = p.x[block(), thread()], 1\n"
        "    while mask < p.threads: v = exchange(p, v, mask) + exchange(p, v, mask); mask *= 2\n"
        "    p.y[block(), thread()] = v/p.threads",
    ],
}
