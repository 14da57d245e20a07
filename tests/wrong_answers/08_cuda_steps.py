"Plausible mistakes in the exercises of chapter 8; each must be rejected."
WRONG = {
    "check_sectors": [
        "def sectors(first, count): return -(-len(first)*count*4//32)",                     # bytes, wherever they lie
        "def sectors(first, count): return len({f//8 for f in first})",                     # where each begins
        "def sectors(first, count): return len({(f + k)//32 for f in first for k in range(count)})",     # of 128
        "def sectors(first, count): return sum(len({(f + k)//8 for k in range(count)}) for f in first)",  # each its own
        "def sectors(first, count): return (max(first) + count - 1)//8 - min(first)//8 + 1",               # all between
    ],
    "check_element": [
        '''def element(block, thread, turn, threads, M):                # each thread a piece of its own
    j = thread*(M//threads) + turn
    return block*M + j if j < M else None''',
        '''def element(block, thread, turn, threads, M):                # all blocks the first group
    j = thread + turn*threads
    return j if j < M else None''',
        "def element(block, thread, turn, threads, M): return block*M + thread + turn*threads",            # never done
        '''def element(block, thread, turn, threads, M):                # blocks as long as their threads
    j = thread + turn*threads
    return block*threads + j if j < M else None''',
        '''def element(block, thread, turn, threads, M):                # one element too many
    j = thread + turn*threads
    return block*M + j if j <= M else None''',
    ],
    "check_butterfly": [
        '''def butterfly(values):                                       # only the first half receives
    rounds, bit = [], len(values)//2
    while bit:
        values = [v + values[t + bit] if t < bit else v for t, v in enumerate(values)]
        rounds.append(values)
        bit //= 2
    return rounds''',
        '''def butterfly(values):                                       # neighbours first
    rounds, bit = [], 1
    while bit < len(values):
        values = [v + values[t ^ bit] for t, v in enumerate(values)]
        rounds.append(values)
        bit *= 2
    return rounds''',
        '''def butterfly(values):                                       # one round too few
    rounds, bit = [], len(values)//2
    while bit > 1:
        values = [v + values[t ^ bit] for t, v in enumerate(values)]
        rounds.append(values)
        bit //= 2
    return rounds''',
        '''def butterfly(values):                                       # only the end
    bit = len(values)//2
    while bit:
        values = [v + values[t ^ bit] for t, v in enumerate(values)]
        bit //= 2
    return values''',
    ],
    "check_parts": [
        "def parts(groups, M, multiprocessors): return max(1, 2*multiprocessors//groups)",           # no power of two
        '''def parts(groups, M, multiprocessors):                       # parts of any size
    P = 1
    while groups*P < 2*multiprocessors: P *= 2
    return P''',
        '''def parts(groups, M, multiprocessors):                       # one block for each
    P = 1
    while groups*P < multiprocessors and M//(2*P) >= 4096: P *= 2
    return P''',
        '''def parts(groups, M, multiprocessors):                       # as many as there are elements for
    P = 1
    while M//(2*P) >= 4096: P *= 2
    return P''',
        '''def parts(groups, M, multiprocessors):                       # one doubling too many
    P = 1
    while groups*P <= 2*multiprocessors and M//(2*P) >= 4096: P *= 2
    return P''',
    ],
}
