# Money moved between accounts under locks: none is lost.
import threading


def move(accounts, locks, seed, n):
    size = len(accounts)
    for _ in range(n):
        seed = (seed * 1103515245 + 12345) % 2147483648
        a = seed // 65536 % size
        b = (a + 1 + seed // 7 % (size - 1)) % size
        low = min(a, b)
        high = max(a, b)
        with locks[low]:
            with locks[high]:
                amount = seed % 10
                if accounts[a] >= amount:
                    accounts[a] -= amount
                    accounts[b] += amount


def run(n):
    accounts = [100] * 8
    locks = []
    for _ in range(8):
        locks.append(threading.Lock())
    threads = []
    for i in range(3):
        threads.append(threading.Thread(target=move, args=(accounts, locks, 77 + i, 60 * n)))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    lowest = min(accounts)
    return sum(accounts) * 10 + (1 if lowest >= 0 else 0)


for k in range(1, 5):
    print(k, run(k))
