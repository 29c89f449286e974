# Globals that change while other threads use them. Each value is used whole: a
# pair is a tuple, and either of both gives the same answer.
import threading

SCALE = 3
PAIR = (6, 2)
stopped = 0
results = []
guard = threading.Lock()


def use(n):
    s = 0
    for i in range(n):
        a, b = PAIR
        s += SCALE * i + a * b - 12
    with guard:
        results.append(s)


def rebind(n):
    global SCALE, PAIR
    for i in range(n):
        SCALE = 3
        if i % 2 == 0:
            PAIR = (3, 4)
        else:
            PAIR = (6, 2)


def run(n):
    global results
    results = []
    threads = [threading.Thread(target=use, args=(300 * n,)), threading.Thread(target=use, args=(300 * n,)),
               threading.Thread(target=rebind, args=(50 * n,))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return sum(results)


for k in range(1, 5):
    print(k, run(k))
