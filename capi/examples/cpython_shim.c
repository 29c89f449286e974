/* What CPython 3.13's jit.c asks of its memory, on jit-arena: replacements of its
 * jit_alloc, mark_executable and jit_free, which there map and unmap whole pages.
 *
 * The order of calls is CPython's. Sizes are exact before anything is allocated, data
 * lies straight behind code, and everything is patched in place, once:
 *
 *     ptrdiff_t delta;
 *     unsigned char *memory = jit_alloc(code_size + data_size, &delta);
 *     ... write code at memory, data at memory + code_size ...
 *     if (mark_executable(memory, size)) { jit_free(memory + delta, size); ... }
 *     executor->jit_code = memory + delta;
 *     ...
 *     jit_free(executor->jit_code, size);
 *
 * What differs is delta. Code runs at another address than it is written at, so a
 * patch that counts from its own place (a relative call, say) counts from where it
 * will run: `value - (location + delta)` in place of `value - location`. Patches
 * that write absolute addresses of code or data add it, too. A client that cannot
 * creates its arena with the strategy "single-pkey": there delta is 0.
 *
 * A reference count tells CPython when nothing can be running an executor: it frees
 * as quiescent, and no thread has to enter or exit. Between jit_alloc and
 * mark_executable a thread has a write scope open, and runs no code. */
#include "cpython_shim.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

static jita_arena *arena;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The one block that a thread is writing: CPython writes one at a time. */
static _Thread_local jita_block writing;

static void jit_error(const char *what) {
    fprintf(stderr, "JIT %s: %s\n", what, jita_last_error());
}

static void create(void) {
    jita_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.name = "python-jit";
    if (jita_create(&options, &arena) != JITA_OK) {
        jit_error("is off");
        arena = NULL;
    }
}

jita_arena *jit_arena(void) {
    pthread_once(&once, create);
    return arena;
}

unsigned char *jit_alloc(size_t size, ptrdiff_t *delta) {
    if (jit_arena() == NULL) {
        return NULL;
    }
    /* In the scope, so that what is written is brought in as that closes. */
    if (jita_write_open(arena) != JITA_OK) {
        jit_error("unable to open memory");
        return NULL;
    }
    /* Code and data are one to the arena, as they are to CPython. */
    if (jita_alloc(arena, size, 0, 1, &writing) != JITA_OK) {
        jit_error("unable to allocate memory");
        jita_write_close(arena);
        return NULL;
    }
    *delta = (unsigned char *)writing.rx - (unsigned char *)writing.rw;
    return writing.rw;
}

/* Ends the writing of the block; 0, or -1 with the block still to be freed. */
int mark_executable(unsigned char *memory, size_t size) {
    if (memory != writing.rw || size > writing.len) {
        fprintf(stderr, "JIT: the memory to run is not what was allocated last\n");
        return -1;
    }
    void *rx = writing.rx;
    memset(&writing, 0, sizeof writing);
    if (jita_write_close(arena) != JITA_OK || jita_publish(arena, rx) != JITA_OK) {
        jit_error("unable to make memory executable");
        return -1;
    }
    return 0;
}

/* Frees by the address that the code runs at, on any thread: an executor that nothing
 * refers to any more, or a block whose compilation failed. */
int jit_free(unsigned char *run, size_t size) {
    (void)size;
    if (writing.rx != NULL && run == writing.rx) {
        memset(&writing, 0, sizeof writing);
        jita_write_close(arena);
    }
    if (jita_free_quiescent(run) != JITA_OK) {
        jit_error("unable to free memory");
        return -1;
    }
    return 0;
}
