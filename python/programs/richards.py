# A scheduler of tasks, after Richards: functions in a list, called by number.

IDLE = 0
WORKER = 1
HANDLER_A = 2
HANDLER_B = 3


def idle(state, me):
    control = state[4]
    if control % 2 == 0:
        state[4] = control // 2
        return HANDLER_A
    state[4] = (control // 2) ^ 53256
    return HANDLER_B


def worker(state, me):
    state[5] = state[5] + 1
    state[6] = (state[6] * 31 + state[5]) % 1000003
    if state[5] % 3 == 0:
        return HANDLER_A
    return IDLE


def handler_a(state, me):
    state[7] = state[7] + 1
    if state[7] % 4 == 1:
        return WORKER
    return IDLE


def handler_b(state, me):
    state[8] = state[8] + 1
    if state[8] % 2 == 0:
        return WORKER
    return handler_a(state, me)


def schedule(tasks, state, steps):
    current = IDLE
    trace = 0
    for _ in range(steps):
        task = tasks[current]
        current = task(state, current)
        trace = (trace * 7 + current) % 65521
    return trace


def run(n):
    tasks = [idle, worker, handler_a, handler_b]
    state = [0, 0, 0, 0, 1, 0, 0, 0, 0]
    trace = schedule(tasks, state, 600 * n)
    return trace * 1000003 + state[6] + state[7] + state[8]


for k in range(1, 5):
    print(k, run(k))
