/* The calls that CPython's JIT makes, in its order, through the shim: stubs at
 * start-up, executors that come and go with their reference counts, threads, fork. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "cpython_shim.h"

enum { STUBS = 200, THREADS = 85, ROUNDS = 40, SHARED = 16 };

static uint32_t helper(void) { return 4711; }

/* An executor, as CPython has it: counted, and freed by whoever drops it last. */
typedef struct executor {
    unsigned char *jit_code;
    size_t jit_size;
    uint32_t value;
    atomic_int references;
} executor;

/* Compiles as jit.c does: sizes first, then all in place, then one publish. The code
 * loads a word from the data behind it, or calls a helper by a relative jump. */
static executor *compile(uint32_t value, size_t padding) {
    int calls = value == 4711;
    size_t code_size = (LOAD_LEN + padding + 3) / 4 * 4, data_size = sizeof value;
    ptrdiff_t delta;
    unsigned char *memory = jit_alloc(code_size + data_size, &delta);
    CHECK(memory != NULL);
    memset(memory, 0xCC, code_size);
    if (calls) {
        const void *target;
        OK(jita_call_target(jit_arena(), memory + delta, address_of(helper), &target));
        emit_jump(memory, memory + delta, target);
    } else {
        emit_load(memory, code_size);
    }
    memcpy(memory + code_size, &value, sizeof value);
    if (padding == 1) { /* as after an error in the middle of compiling */
        CHECK(jit_free(memory + delta, code_size + data_size) == 0);
        return NULL;
    }
    CHECK(mark_executable(memory, code_size + data_size) == 0);
    executor *new = malloc(sizeof *new);
    CHECK(new != NULL);
    new->jit_code = memory + delta;
    new->jit_size = code_size + data_size;
    new->value = value;
    atomic_init(&new->references, 1);
    return new;
}

static void run(const executor *self) { CHECK(call(self->jit_code) == self->value); }

static void drop(executor *self) {
    /* Release, so that what others ran comes before; acquire at zero. */
    if (atomic_fetch_sub_explicit(&self->references, 1, memory_order_acq_rel) == 1) {
        CHECK(jit_free(self->jit_code, self->jit_size) == 0);
        free(self);
    }
}

static executor *shared[SHARED];
static pthread_mutex_t locks[SHARED];

/* Takes, runs and drops the executor of a place, and puts a new one there. */
static void *churn(void *argument) {
    uint32_t number = (uint32_t)(uintptr_t)argument;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t at = (number * 7 + round) % SHARED;
        executor *new = compile(number * 1000 + round, (number * 37 + round * 101) % 3000 + 2);
        run(new);
        pthread_mutex_lock(&locks[at]);
        executor *old = shared[at];
        if (old != NULL) {
            atomic_fetch_add(&old->references, 1);
        }
        pthread_mutex_unlock(&locks[at]);
        if (old != NULL) {
            run(old); /* while others may drop theirs */
            drop(old);
        }
        pthread_mutex_lock(&locks[at]);
        old = shared[at];
        shared[at] = new;
        pthread_mutex_unlock(&locks[at]);
        if (old != NULL) {
            drop(old); /* compiled by another thread, mostly */
        }
    }
    return NULL;
}

/* In a child: what there was runs, and it compiles, runs and frees code of its own,
 * and what it has inherited, as its parent does. */
static int goes_on(executor **stubs) {
    for (int i = 0; i < STUBS; i++) {
        run(stubs[i]);
    }
    for (uint32_t i = 0; i < 300; i++) {
        executor *own = compile(5000 + i, i * 7 % 900 + 2);
        run(own);
        drop(own);
        if (i < STUBS && i % 2 == 0) {
            drop(stubs[i]); /* the parent keeps its own */
        }
    }
    for (int i = 1; i < STUBS; i += 2) {
        run(stubs[i]);
    }
    OK(jita_collect(jit_arena()));
    OK(jita_verify(jit_arena()));
    return 7;
}

static void check_children(executor **stubs) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        _exit(goes_on(stubs));
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    /* A child that becomes another program. */
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", "exit 9", (char *)NULL);
        _exit(1);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 9);
    /* The parent goes on. */
    for (int i = 0; i < STUBS; i++) {
        run(stubs[i]);
    }
    executor *after = compile(12, 100);
    run(after);
    drop(after);
}

int main(void) {
    static executor *stubs[STUBS];
    pthread_t threads[THREADS];
    for (uint32_t i = 0; i < STUBS; i++) {
        stubs[i] = compile(i % 10 == 0 ? 4711 : i, 40 + i % 90);
    }
    for (int i = 0; i < STUBS; i++) {
        run(stubs[i]);
    }
    CHECK(compile(1, 1) == NULL);
    check_children(stubs);
    for (int i = 0; i < SHARED; i++) {
        CHECK(pthread_mutex_init(&locks[i], NULL) == 0);
    }
    for (uintptr_t i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    check_children(stubs);
    for (int i = 0; i < SHARED; i++) {
        if (shared[i] != NULL) {
            run(shared[i]);
            drop(shared[i]);
        }
    }
    for (int i = 0; i < STUBS; i++) {
        run(stubs[i]);
        drop(stubs[i]);
    }
    OK(jita_collect(jit_arena()));
    OK(jita_verify(jit_arena()));
    jita_stats stats;
    stats.size = sizeof stats;
    OK(jita_stats_read(jit_arena(), &stats));
    CHECK(stats.live_executors == 0 && stats.retired_executors == 0);
    CHECK(stats.installs == STUBS + THREADS * ROUNDS + 2);
    printf("%d stubs, %d threads, %llu executors in %llu bytes\n", STUBS, THREADS,
           (unsigned long long)stats.installs, (unsigned long long)stats.committed_bytes);
    return 0;
}
