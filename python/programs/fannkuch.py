# Flips of pancakes: ints in lists, and a loop inside a loop inside a loop.


def fannkuch(n, limit):
    perm1 = list(range(n))
    perm = list(range(n))
    count = [0] * n
    checksum = 0
    most = 0
    done = 0
    r = n
    while True:
        while r != 1:
            count[r - 1] = r
            r -= 1
        for i in range(n):
            perm[i] = perm1[i]
        flips = 0
        k = perm[0]
        while k != 0:
            i = 0
            j = k
            while i < j:
                t = perm[i]
                perm[i] = perm[j]
                perm[j] = t
                i += 1
                j -= 1
            flips += 1
            k = perm[0]
        if flips > most:
            most = flips
        if done % 2 == 0:
            checksum += flips
        else:
            checksum -= flips
        done += 1
        if done == limit:
            return checksum * 1000 + most
        going = True
        while going:
            if r == n:
                return checksum * 1000 + most
            first = perm1[0]
            for i in range(r):
                perm1[i] = perm1[i + 1]
            perm1[r] = first
            count[r] -= 1
            if count[r] > 0:
                going = False
            else:
                r += 1


def run(n):
    return fannkuch(9, 400 * n)


for k in range(1, 5):
    print(k, run(k))
