# Functions that are redefined while other threads call them. What they compute
# stays the same, so the sum does too.
import threading

total = 0
guard = threading.Lock()


def work(x):
    return x * 2 + 1


def define_first():
    global work

    def work(x):
        return x + x + 1


def define_second():
    global work

    def work(x):
        y = x * 2
        return y + 1


def define_third():
    global work

    def work(x):
        if x < 0:
            return -1
        return 1 + (x << 1)


def caller(n):
    global total
    s = 0
    for i in range(n):
        s += work(i)
    with guard:
        total += s


def redefiner(n):
    for i in range(n):
        if i % 3 == 0:
            define_first()
        elif i % 3 == 1:
            define_second()
        else:
            define_third()


def run(n):
    global total
    total = 0
    threads = []
    for i in range(3):
        threads.append(threading.Thread(target=caller, args=(400 * n,)))
    threads.append(threading.Thread(target=redefiner, args=(20 * n,)))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return total


for k in range(1, 5):
    print(k, run(k))
