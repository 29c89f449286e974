# Primes by Eratosthenes: a list of bools.


def primes(limit):
    is_prime = [True] * limit
    is_prime[0] = False
    is_prime[1] = False
    i = 2
    while i * i < limit:
        if is_prime[i]:
            for j in range(i * i, limit, 1):
                if j % i == 0:
                    is_prime[j] = False
        i += 1
    count = 0
    last = 0
    for i in range(limit):
        if is_prime[i]:
            count += 1
            last = i
    return count * 100000 + last


def fast(limit):
    is_prime = [True] * limit
    count = 0
    for i in range(2, limit):
        if is_prime[i]:
            count += 1
            j = i + i
            while j < limit:
                is_prime[j] = False
                j += i
    return count


def run(n):
    return primes(60) + fast(2500 * n)


for k in range(1, 5):
    print(k, run(k))
