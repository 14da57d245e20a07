"Plausible mistakes in the exercises of chapter 8; each must be rejected."
NORMED = '''def normed(x, y, M, eps):
    t, k = cuda.threadIdx.x, np.float32({k})
    s, q = np.float32(0), np.float32(0)
    for j in range(t, {stop}, 8):
        v = x[j] - k
        s += v; q += v*v
    for bit in ({bits}):
        s += cuda.shfl_xor_sync(0xff, s, bit)
        q += cuda.shfl_xor_sync(0xff, q, bit)
    m = {m}
    variance = max(q/np.float32({n}) - m*m, np.float32(0)){eps}
    rstd = 1/({root})
    for j in range(t, M, 8): y[j] = ((x[j] - k) - m)*rstd'''
RIGHT = dict(k="x[0]", m="s/np.float32(M)", n="M", eps=" + eps", root="math.sqrt(variance)", bits="4, 2, 1", stop="M")
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
    "check_share_if_twice": [
        "def share_if_twice(seconds, nbytes, copy): return 2*nbytes/seconds/1e9/copy",              # bandwidth counts 2
        "def share_if_twice(seconds, nbytes, copy): return 4*nbytes/seconds/1e9/copy",              # y read before
        "def share_if_twice(seconds, nbytes, copy): return 3*nbytes/seconds/1e9",                   # bytes in a second
        "def share_if_twice(seconds, nbytes, copy): return 3*nbytes/seconds/copy",                  # GB/s against B/s
        "def share_if_twice(seconds, nbytes, copy): return copy*1e9*seconds/(3*nbytes)",            # the inverse
        "def share_if_twice(seconds, nbytes, copy): return 1.5*nbytes/seconds/1e9/copy",            # half of it
    ],
    "check_doubled": [
        "def doubled(x, y, n):                                           # no guard\n"
        "    i = cuda.grid(1)\n    y[i] = 2*x[i]",
        "def doubled(x, y, n):                                           # one too many\n"
        "    i = cuda.grid(1)\n    if i <= n: y[i] = 2*x[i]",
        "def doubled(x, y, n):                                           # every block the same numbers\n"
        "    i = cuda.threadIdx.x\n    if i < n: y[i] = 2*x[i]",
        "def doubled(x, y, n):                                           # one thread does it all\n"
        "    if cuda.grid(1) == 0:\n        for i in range(n): y[i] = 2*x[i]",
        "def doubled(x, y, n):                                           # the last block is left out\n"
        "    i = cuda.grid(1)\n    if i < n//cuda.blockDim.x*cuda.blockDim.x: y[i] = 2*x[i]",
    ],
    "check_strided": [
        "def strided(x, y, n):                                           # one turn\n"
        "    i = cuda.grid(1)\n    if i < n: y[i] = 2*x[i]",
        "def strided(x, y, n):                                           # steps of a block\n"
        "    for i in range(cuda.grid(1), n, cuda.blockDim.x): y[i] = 2*x[i]",
        "def strided(x, y, n):                                           # a piece for each thread\n"
        "    each = -(-n//cuda.gridsize(1))\n"
        "    for i in range(each*cuda.grid(1), min(n, each*(cuda.grid(1) + 1))): y[i] = 2*x[i]",
        "def strided(x, y, n):                                           # a piece for each block\n"
        "    each = -(-n//cuda.gridDim.x)\n"
        "    start = each*cuda.blockIdx.x\n"
        "    for i in range(start + cuda.threadIdx.x, min(n, start + each), cuda.blockDim.x): y[i] = 2*x[i]",
        "def strided(x, y, n):                                           # no guard at the last turn\n"
        "    i = cuda.grid(1)\n"
        "    for k in range(-(-n//cuda.gridsize(1))): y[i + k*cuda.gridsize(1)] = 2*x[i + k*cuda.gridsize(1)]",
    ],
    "check_summed": [
        "def summed(x, y):                                               # halves that are no integers\n"
        "    t, half, s = cuda.threadIdx.x, cuda.blockDim.x/2, cuda.shared.array(8, np.float32)\n"
        "    s[t] = x[cuda.grid(1)]\n"
        "    while half >= 1:\n        cuda.syncthreads()\n        if t < half: s[t] += s[t + half]\n"
        "        half /= 2\n"
        "    if t == 0: y[cuda.blockIdx.x] = s[0]",
        "def summed(x, y):                                               # a barrier in each branch\n"
        "    t, half, s = cuda.threadIdx.x, cuda.blockDim.x//2, cuda.shared.array(8, np.float32)\n"
        "    s[t] = x[cuda.grid(1)]\n    cuda.syncthreads()\n"
        "    while half:\n        if t < half:\n            s[t] += s[t + half]\n            cuda.syncthreads()\n"
        "        else: cuda.syncthreads()\n        half //= 2\n"
        "    if t == 0: y[cuda.blockIdx.x] = s[0]",
        "def summed(x, y):                                               # no barrier\n"
        "    t, half, s = cuda.threadIdx.x, cuda.blockDim.x//2, cuda.shared.array(8, np.float32)\n"
        "    s[t] = x[cuda.grid(1)]\n"
        "    while half:\n        if t < half: s[t] += s[t + half]\n        half //= 2\n"
        "    if t == 0: y[cuda.blockIdx.x] = s[0]",
        "def summed(x, y):                                               # one barrier, before the rounds\n"
        "    t, half, s = cuda.threadIdx.x, cuda.blockDim.x//2, cuda.shared.array(8, np.float32)\n"
        "    s[t] = x[cuda.grid(1)]\n    cuda.syncthreads()\n"
        "    while half:\n        if t < half: s[t] += s[t + half]\n        half //= 2\n"
        "    if t == 0: y[cuda.blockIdx.x] = s[0]",
        "def summed(x, y):                                               # only those at work wait\n"
        "    t, half, s = cuda.threadIdx.x, cuda.blockDim.x//2, cuda.shared.array(8, np.float32)\n"
        "    s[t] = x[cuda.grid(1)]\n"
        "    while half:\n"
        "        if t < half:\n            cuda.syncthreads()\n            s[t] += s[t + half]\n"
        "        half //= 2\n"
        "    if t == 0: y[cuda.blockIdx.x] = s[0]",
        "def summed(x, y):                                               # thread 0 adds them all up\n"
        "    t, s, total = cuda.threadIdx.x, cuda.shared.array(8, np.float32), np.float32(0)\n"
        "    s[t] = x[cuda.grid(1)]\n    cuda.syncthreads()\n"
        "    if t == 0:\n"
        "        for k in range(cuda.blockDim.x): total += s[k]\n"
        "        y[cuda.blockIdx.x] = total",
        "def summed(x, y):                                               # without shared memory\n"
        "    if cuda.threadIdx.x == 0:\n"
        "        y[cuda.blockIdx.x] = sum(x[cuda.grid(1) + k] for k in range(cuda.blockDim.x))",
        "def summed(x, y):                                               # all into one place\n"
        "    y[cuda.blockIdx.x] = 0\n    cuda.syncthreads()\n    y[cuda.blockIdx.x] += x[cuda.grid(1)]",
    ],
    "check_largest": [
        "def largest(x, y):                                              # one exchange\n"
        "    v = x[cuda.grid(1)]\n"
        "    y[cuda.grid(1)] = max(v, cuda.shfl_xor_sync(0xff, v, cuda.blockDim.x//2))",
        "def largest(x, y):                                              # every thread reads all\n"
        "    start, v = cuda.blockIdx.x*cuda.blockDim.x, -1000.\n"
        "    for j in range(start, start + cuda.blockDim.x): v = max(v, x[j])\n"
        "    y[cuda.grid(1)] = v",
        "def largest(x, y):                                              # begins at 0\n"
        "    v, bit = max(x[cuda.grid(1)], 0), cuda.blockDim.x//2\n"
        "    while bit:\n        v = max(v, cuda.shfl_xor_sync(0xff, v, bit))\n        bit //= 2\n"
        "    y[cuda.grid(1)] = v",
        "def largest(x, y):                                              # only the first thread knows\n"
        "    v, bit = x[cuda.grid(1)], cuda.blockDim.x//2\n"
        "    while bit:\n        v = max(v, cuda.shfl_xor_sync(0xff, v, bit))\n        bit //= 2\n"
        "    if cuda.threadIdx.x == 0: y[cuda.grid(1)] = v",
        "def largest(x, y):                                              # one exchange with each of the others\n"
        "    v, mine = x[cuda.grid(1)], x[cuda.grid(1)]\n"
        "    for bit in range(1, cuda.blockDim.x): v = max(v, cuda.shfl_xor_sync(0xff, mine, bit))\n"
        "    y[cuda.grid(1)] = v",
        "def largest(x, y):                                              # the same, from one read\n"
        "    mine = v = x[cuda.grid(1)]\n"
        "    for bit in range(1, cuda.blockDim.x): v = max(v, cuda.shfl_xor_sync(0xff, mine, bit))\n"
        "    y[cuda.grid(1)] = v",
        "def largest(x, y):                                              # through shared memory\n"
        "    s, v = cuda.shared.array(8, np.float32), -1000.\n"
        "    s[cuda.threadIdx.x] = x[cuda.grid(1)]\n    cuda.syncthreads()\n"
        "    for j in range(cuda.blockDim.x): v = max(v, s[j])\n"
        "    y[cuda.grid(1)] = v",
    ],
    "check_normed": [NORMED.format(**(RIGHT | wrong)) for wrong in (
        dict(k="0"),                                                     # squares of large numbers
        dict(m="s/np.float32(8)", n="8"),                                # divided by the threads
        dict(n="M - 1"),                                                 # unbiased
        dict(eps="", root="math.sqrt(variance) + eps"),                       # eps outside the root
        dict(eps=""),                                                    # no eps
        dict(bits="2, 1"),                                               # half of the warp
        dict(stop="M//8*8"),                                             # the tail is forgotten
    )] + ["def normed(x, y, M, eps):                                     # every thread adds up all\n"
          "    k, s, q = x[0], np.float32(0), np.float32(0)\n"
          "    for j in range(M):\n        s += x[j] - k\n        q += (x[j] - k)**2\n"
          "    m = s/np.float32(M)\n    rstd = 1/math.sqrt(q/np.float32(M) - m*m + eps)\n"
          "    for j in range(cuda.threadIdx.x, M, 8): y[j] = ((x[j] - k) - m)*rstd",
          "def normed(x, y, M, eps):                                     # does not wait before it writes again\n"
          "    t, k, a = cuda.threadIdx.x, x[0], cuda.shared.array(8, np.float32)\n"
          "    a[t] = sum((x[j] - k for j in range(t, M, 8)), np.float32(0))\n    cuda.syncthreads()\n"
          "    m = sum((a[j] for j in range(8)), np.float32(0))/np.float32(M)\n"
          "    a[t] = sum((((x[j] - k) - m)**2 for j in range(t, M, 8)), np.float32(0))\n    cuda.syncthreads()\n"
          "    rstd = 1/math.sqrt(sum((a[j] for j in range(8)), np.float32(0))/np.float32(M) + eps)\n"
          "    for j in range(t, M, 8): y[j] = ((x[j] - k) - m)*rstd"],
}
