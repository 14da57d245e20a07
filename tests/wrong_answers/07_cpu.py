"Plausible mistakes in the exercises of chapter 7; each must be rejected."
WRONG = {
    "check_traffic": [
        "answer = (2, 12)",      # takes mean and variance for one pass
        "answer = (3, 12)",      # forgets the write
        "answer = (3, 4)",       # counts values, not bytes
        "answer = (3, 24)",      # counts a read before the write and the rounding to float64
    ],
    "check_breaks": [
        "def breaks(x, eps): return eps == 0",                        # a positive variance is enough
        "def breaks(x, eps): return x.var() == 0",                    # eps is there for this
        "def breaks(x, eps): return len(x) == 1 and eps == 0",        # a constant group too
        "def breaks(x, eps): return x.mean() == 0 and eps == 0",
    ],
    "check_order": [
        '''def order_matters(parts):                                # in float64
    wide = parts.astype(np.float64)
    return bool(wide.sum() != wide[::-1].sum())''',
        "def order_matters(parts): return bool(np.any(parts != parts[::-1]))",         # the values, not the sums
        "def order_matters(parts): return bool(np.abs(parts).max() > 1)",
        "def order_matters(parts): return True",
    ],
    "check_used": [
        "def used(C, D, S, itemsize, g): return D/C",                                        # of the rows, not of lines
        "def used(C, D, S, itemsize, g): return min(1, D*itemsize/64)",                      # one line, never an edge
        "def used(C, D, S, itemsize, g): return min(1, D/16)",                               # float32 whatever it is
        '''def used(C, D, S, itemsize, g):                          # rows that share a line count it twice
    lines = sum(((s*C + (g + 1)*D)*itemsize - 1)//64 - (s*C + g*D)*itemsize//64 + 1 for s in range(S))
    return S*D*itemsize/(64*lines)''',
        '''def used(C, D, S, itemsize, g):                          # each row begins with a line
    return D*itemsize/(64*(((g + 1)*D*itemsize - 1)//64 - g*D*itemsize//64 + 1))''',
        '''def used(C, D, S, itemsize, g):                          # the first group whichever is asked
    lines = {byte//64 for s in range(S) for byte in range(s*C*itemsize, (s*C + D)*itemsize)}
    return S*D*itemsize/(64*len(lines))''',
    ],
    "check_batch": [
        "def batch(tasks, elements, threads): return max(1, min(8, tasks//(4*threads)))",               # always 8
        "def batch(tasks, elements, threads): return max(1, tasks//(4*threads))",                       # four for each
        "def batch(tasks, elements, threads): return min(max(8, tasks*16384//elements), tasks//(4*threads))",    # 0
        "def batch(tasks, elements, threads): return max(8, min(tasks*16384//elements, tasks//(4*threads)))",    # over
        """def batch(tasks, elements, threads):                     # rounded up
    return max(1, min(max(8, -(-tasks*16384//elements)), tasks//(4*threads)))""",
        "def batch(tasks, elements, threads): return max(1, min(max(8, tasks*16384//elements), tasks//threads))",
    ],
    "check_split": [
        "def split(mean): return np.float32(mean), np.float32(0)",                                    # forgets the rest
        "def split(mean): return np.float64(mean), np.float64(0)",                                    # not two float32
        "def split(mean): hi = np.float32(mean); return hi, np.float32(np.float32(mean) - hi)",       # rounds before
        "def split(mean): hi = np.float32(int(mean)); return hi, np.float32(mean - float(hi))",       # whole part
    ],
    "check_backward_bytes": [
        "answer = (8, 20)",       # forgets dy
        "answer = (12, 24)",      # writes dx twice
        "answer = (12, 16)",      # reads only x again
        "answer = (3, 5)",        # counts arrays, not bytes
    ],
}
