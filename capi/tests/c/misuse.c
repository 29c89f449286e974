/* Every way to get it wrong that can be told: an error code, nothing changed, and
 * what was right before still is. */
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static uint64_t retired_so_far(jita_arena *arena) {
    jita_stats stats;
    stats.size = sizeof stats;
    OK(jita_stats_read(arena, &stats));
    return stats.retires;
}

static void frees_wrongly(jita_arena *arena) {
    unsigned char *code = install(arena, 1);
    void *heap = malloc(64);
    int local = 0;
    uint64_t before = retired_so_far(arena);

    RETURNS(JITA_ERROR_NULL, jita_free(NULL));
    RETURNS(JITA_ERROR_FOREIGN, jita_free(heap));
    RETURNS(JITA_ERROR_FOREIGN, jita_free(&local));
    RETURNS(JITA_ERROR_FOREIGN, jita_free((void *)(intptr_t)-1));
    RETURNS(JITA_ERROR_FOREIGN, jita_free((void *)1));
    RETURNS(JITA_ERROR_FOREIGN, jita_free_quiescent(heap));
    RETURNS(JITA_ERROR_MIDDLE, jita_free(code + 1));
    RETURNS(JITA_ERROR_MIDDLE, jita_free_quiescent(code + CONSTANT_LEN - 1));
    CHECK(strstr(jita_last_error(), "middle") != NULL);
    RETURNS(JITA_ERROR_NOT_CODE, jita_free(code - 16)); /* its header */
    RETURNS(JITA_ERROR_NOT_CODE, jita_free(code + 8 * 1024 * 1024));
    CHECK(retired_so_far(arena) == before && call(code) == 1);

    OK(jita_free(code));
    RETURNS(JITA_ERROR_FREED, jita_free(code));
    RETURNS(JITA_ERROR_FREED, jita_free_quiescent(code));
    CHECK(strstr(jita_last_error(), "freed before") != NULL);
    OK(jita_collect(arena));
    RETURNS(JITA_ERROR_NOT_CODE, jita_free(code));
    CHECK(retired_so_far(arena) == before + 1);
    free(heap);
}

static void publishes_wrongly(jita_arena *arena, int seals) {
    jita_block block, other;
    OK(jita_alloc(arena, CONSTANT_LEN, 0, 1, &block));
    RETURNS(JITA_ERROR_NULL, jita_publish(arena, NULL));
    RETURNS(JITA_ERROR_UNWRITTEN, jita_publish(arena, block.rx));
    RETURNS(JITA_ERROR_FOREIGN, jita_publish(arena, &block));
    RETURNS(JITA_ERROR_NOT_CODE, jita_publish(arena, (char *)block.rx + 4));
    OK(jita_write_open(arena));
    emit_constant(block.rw, 9);
    RETURNS(JITA_ERROR_STATE, jita_publish(arena, block.rx));
    OK(jita_write_close(arena));
    OK(jita_publish(arena, block.rx));
    RETURNS(JITA_ERROR_STATE, jita_publish(arena, block.rx));
    RETURNS(JITA_ERROR_MIDDLE, jita_publish(arena, (char *)block.rx + 4));
    CHECK(call(block.rx) == 9);
    OK(jita_free(block.rx));

    OK(jita_write_open(arena));
    OK(jita_alloc(arena, CONSTANT_LEN, 0, 1, &block));
    OK(jita_alloc(arena, CONSTANT_LEN, 0, 1, &other));
    emit_constant(block.rw, 10);
    emit_constant(other.rw, 20);
    OK(jita_write_close(arena));
    OK(jita_write_open(arena));
    emit_constant(block.rw, 11); /* in another scope than it was allocated in */
    OK(jita_write_close(arena));
    if (seals) {
        RETURNS(JITA_ERROR_SEALED, jita_publish(arena, block.rx));
        OK(jita_free(block.rx));
    } else {
        OK(jita_publish(arena, block.rx));
        CHECK(call(block.rx) == 11);
        OK(jita_free(block.rx));
    }
    OK(jita_publish(arena, other.rx));
    CHECK(call(other.rx) == 20);
    OK(jita_free(other.rx));
}

static void calls_out_of_order(jita_arena *arena) {
    void *word = install(arena, 1), *rx = NULL, *code = word;
    RETURNS(JITA_ERROR_STATE, jita_exit(arena));
    RETURNS(JITA_ERROR_STATE, jita_safepoint(arena));
    RETURNS(JITA_ERROR_STATE, jita_unpark(arena));
    RETURNS(JITA_ERROR_STATE, jita_write_close(arena));
    RETURNS(JITA_ERROR_NULL, jita_enter(arena, &word, NULL));

    OK(jita_write_open(arena));
    RETURNS(JITA_ERROR_STATE, jita_enter(arena, &word, &rx)); /* writable: not to be run */
    RETURNS(JITA_ERROR_STATE, jita_park(arena));
    RETURNS(JITA_ERROR_STATE, jita_detach(arena));
    RETURNS(JITA_ERROR_STATE, jita_destroy(arena));
    RETURNS(JITA_ERROR_STATE, jita_collect(arena));
    RETURNS(JITA_ERROR_STATE, jita_install(arena, "code", 4, NULL, 0, &rx));
    OK(jita_write_close(arena));

    OK(jita_enter(arena, &word, &rx));
    RETURNS(JITA_ERROR_STATE, jita_detach(arena));
    RETURNS(JITA_ERROR_STATE, jita_destroy(arena));
    OK(jita_park(arena));
    RETURNS(JITA_ERROR_STATE, jita_exit(arena));
    RETURNS(JITA_ERROR_STATE, jita_safepoint(arena));
    RETURNS(JITA_ERROR_STATE, jita_detach(arena));
    OK(jita_enter(arena, &word, &rx));
    RETURNS(JITA_ERROR_STATE, jita_unpark(arena)); /* of an outer enter */
    OK(jita_exit(arena));
    OK(jita_unpark(arena));
    CHECK(call(rx) == 1);
    OK(jita_exit(arena));
    RETURNS(JITA_ERROR_STATE, jita_exit(arena));
    OK(jita_free(code));
}

static void passes_nulls_and_nonsense(jita_arena *arena) {
    jita_block block;
    jita_options options;
    jita_layout layout;
    jita_stats stats;
    jita_arena *new_arena = NULL;
    void *rx;
    ptrdiff_t offset;
    const void *jump;
    memset(&options, 0, sizeof options);
    memset(&layout, 0, sizeof layout);

    RETURNS(JITA_ERROR_NULL, jita_create(NULL, NULL));
    RETURNS(JITA_ERROR_VERSION, jita_create(&options, &new_arena)); /* size 0 */
    options.size = sizeof options - 1;
    RETURNS(JITA_ERROR_VERSION, jita_create(&options, &new_arena));
    options.size = (size_t)-1;
    RETURNS(JITA_ERROR_VERSION, jita_create(&options, &new_arena));
    struct {
        jita_options options;
        uint64_t newer;
    } larger = {options, 0};
    larger.options.size = sizeof larger;
    larger.newer = 1; /* something that this library does not know */
    RETURNS(JITA_ERROR_VERSION, jita_create(&larger.options, &new_arena));
    larger.newer = 0;
    OK(jita_create(&larger.options, &new_arena));
    OK(jita_destroy(new_arena));
    options.size = sizeof options;
    options.flags = 1u << 30;
    RETURNS(JITA_ERROR_INVALID, jita_create(&options, &new_arena));
    options.flags = 0;
    options.strategy = "no-such";
    RETURNS(JITA_ERROR_INVALID, jita_create(&options, &new_arena));
    options.strategy = "\xFF";
    RETURNS(JITA_ERROR_INVALID, jita_create(&options, &new_arena));
    options.strategy = NULL;
    options.reserve = 12345;
    RETURNS(JITA_ERROR_INVALID, jita_create(&options, &new_arena));

    RETURNS(JITA_ERROR_NULL, jita_alloc(arena, 16, 0, 1, NULL));
    RETURNS(JITA_ERROR_INVALID, jita_alloc(arena, 0, 0, 1, &block));
    RETURNS(JITA_ERROR_INVALID, jita_alloc(arena, 16, 8, 3, &block));
    RETURNS(JITA_ERROR_INVALID, jita_alloc(arena, (size_t)-1, 8, 8, &block));
    RETURNS(JITA_ERROR_INVALID, jita_alloc(arena, 16, (size_t)-8, 8, &block));
    RETURNS(JITA_ERROR_NULL, jita_alloc_layout(arena, NULL, &block));
    RETURNS(JITA_ERROR_VERSION, jita_alloc_layout(arena, &layout, &block));
    layout.size = sizeof layout;
    RETURNS(JITA_ERROR_INVALID, jita_alloc_layout(arena, &layout, &block));
    RETURNS(JITA_ERROR_NULL, jita_install(arena, NULL, 4, NULL, 0, &rx));
    RETURNS(JITA_ERROR_NULL, jita_install(arena, "code", 4, NULL, 4, &rx));
    RETURNS(JITA_ERROR_NULL, jita_install(arena, "code", 4, NULL, 0, NULL));
    RETURNS(JITA_ERROR_INVALID, jita_install(arena, NULL, 0, NULL, 0, &rx));
    RETURNS(JITA_ERROR_NULL, jita_lookup(&block, NULL));
    CHECK(!jita_contains(NULL, &block));
    RETURNS(JITA_ERROR_NULL, jita_trampoline(arena, NULL, &jump));
    RETURNS(JITA_ERROR_NULL, jita_trampoline(arena, &block, NULL));
    RETURNS(JITA_ERROR_NULL, jita_make_trampolines(arena, NULL, 3));
    jump = NULL;
    RETURNS(JITA_ERROR_NULL, jita_make_trampolines(arena, &jump, 1));
    RETURNS(JITA_ERROR_REACH, jita_call_target(arena, (void *)16, &block, &jump));
    RETURNS(JITA_ERROR_NULL, jita_stats_read(arena, NULL));
    stats.size = 8;
    RETURNS(JITA_ERROR_VERSION, jita_stats_read(arena, &stats));
    RETURNS(JITA_ERROR_NULL, jita_stats_json(arena, NULL, 10, NULL));
    RETURNS(JITA_ERROR_NULL, jita_write_offset(arena, &offset, NULL));
}

static void uses_handles_that_are_none(void) {
    jita_arena *gone = create(NULL, 0), *handles[4];
    jita_block block;
    void *word = NULL, *rx, *code = install(gone, 1);
    OK(jita_destroy(gone));
    RETURNS(JITA_ERROR_HANDLE, jita_destroy(gone)); /* twice */
    RETURNS(JITA_ERROR_FOREIGN, jita_free(code));   /* went with it */
    handles[0] = gone;
    handles[1] = NULL;
    handles[2] = (jita_arena *)(void *)&block;
    handles[3] = (jita_arena *)(uintptr_t)-1;
    for (int i = 0; i < 4; i++) {
        RETURNS(JITA_ERROR_HANDLE, jita_destroy(handles[i]));
        RETURNS(JITA_ERROR_HANDLE, jita_attach(handles[i]));
        RETURNS(JITA_ERROR_HANDLE, jita_alloc(handles[i], 16, 0, 1, &block));
        RETURNS(JITA_ERROR_HANDLE, jita_publish(handles[i], &block));
        RETURNS(JITA_ERROR_HANDLE, jita_install(handles[i], "code", 4, NULL, 0, &rx));
        RETURNS(JITA_ERROR_HANDLE, jita_write_open(handles[i]));
        RETURNS(JITA_ERROR_HANDLE, jita_enter(handles[i], &word, &rx));
        RETURNS(JITA_ERROR_HANDLE, jita_park(handles[i]));
        RETURNS(JITA_ERROR_HANDLE, jita_collect(handles[i]));
        RETURNS(JITA_ERROR_HANDLE, jita_verify(handles[i]));
        RETURNS(JITA_ERROR_HANDLE, jita_trampoline(handles[i], &block, (const void **)&rx));
        RETURNS(JITA_ERROR_HANDLE, jita_stats_json(handles[i], NULL, 0, NULL));
        RETURNS(JITA_ERROR_STATE, jita_exit(handles[i]));
        RETURNS(JITA_ERROR_STATE, jita_write_close(handles[i]));
        RETURNS(JITA_ERROR_STATE, jita_unpark(handles[i]));
        RETURNS(JITA_ERROR_STATE, jita_detach(handles[i]));
    }
    /* A slot that is used again does not bring the old handle back. */
    jita_arena *next = create(NULL, 0);
    CHECK(next != gone);
    RETURNS(JITA_ERROR_HANDLE, jita_attach(gone));
    OK(jita_destroy(next));
}

static void detaches_and_goes_on(void) {
    jita_arena *arena = create(NULL, JITA_EXPLICIT_ATTACH);
    jita_block block;
    void *word, *rx;
    RETURNS(JITA_ERROR_NOT_ATTACHED, jita_alloc(arena, 16, 0, 1, &block));
    OK(jita_attach(arena));
    OK(jita_attach(arena)); /* counted */
    word = install(arena, 2);
    OK(jita_alloc(arena, 16, 0, 1, &block));
    OK(jita_detach(arena));
    OK(jita_write_open(arena)); /* still attached */
    OK(jita_write_close(arena));
    OK(jita_detach(arena));

    RETURNS(JITA_ERROR_NOT_ATTACHED, jita_publish(arena, block.rx));
    RETURNS(JITA_ERROR_NOT_ATTACHED, jita_alloc(arena, 16, 0, 1, &block));
    RETURNS(JITA_ERROR_NOT_ATTACHED, jita_enter(arena, &word, &rx));
    RETURNS(JITA_ERROR_NOT_ATTACHED, jita_write_open(arena));
    RETURNS(JITA_ERROR_NOT_ATTACHED, jita_install(arena, "code", 4, NULL, 0, &rx));
    RETURNS(JITA_ERROR_STATE, jita_exit(arena));
    RETURNS(JITA_ERROR_STATE, jita_detach(arena));
    /* Its block went with the attachment; freeing needs none. */
    RETURNS(JITA_ERROR_NOT_CODE, jita_free(block.rx));
    OK(jita_free(word));
    RETURNS(JITA_ERROR_FREED, jita_free(word));
    OK(jita_attach(arena));
    OK(jita_collect(arena));
    OK(jita_verify(arena));
    OK(jita_destroy(arena));
}

static void *uses_another_threads_block(void *argument) {
    void **both = argument;
    RETURNS(JITA_ERROR_NOT_CODE, jita_publish(both[0], both[1]));
    RETURNS(JITA_ERROR_NOT_CODE, jita_free(both[1]));
    RETURNS(JITA_ERROR_STATE, jita_write_close(both[0]));
    RETURNS(JITA_ERROR_STATE, jita_exit(both[0]));
    return NULL;
}

static void uses_what_is_another_threads(jita_arena *arena) {
    jita_block block;
    pthread_t thread;
    void *both[2];
    OK(jita_enter(arena, NULL, NULL));
    OK(jita_write_open(arena));
    OK(jita_alloc(arena, CONSTANT_LEN, 0, 1, &block));
    both[0] = arena;
    both[1] = block.rx;
    CHECK(pthread_create(&thread, NULL, uses_another_threads_block, both) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    emit_constant(block.rw, 31);
    OK(jita_write_close(arena));
    OK(jita_publish(arena, block.rx));
    CHECK(call(block.rx) == 31);
    OK(jita_exit(arena));
    OK(jita_free(block.rx));
}

/* With jita_abort_on_misuse: a message, and SIGABRT; for nothing else. */
static void aborts_if_told_to(jita_arena *arena) {
    int ends[2], status;
    char text[512] = {0};
    void *code = install(arena, 1);
    OK(jita_free(code));
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        jita_arena *none = NULL;
        dup2(ends[1], 2);
        jita_abort_on_misuse(1);
        setenv("JIT_ARENA_STRATEGY", "no-such", 1);
        if (jita_create(NULL, &none) != JITA_ERROR_OS ||
            strstr(jita_last_error(), "no-such") == NULL) {
            _exit(1);
        }
        jita_free(code);
        _exit(0);
    }
    close(ends[1]);
    size_t len = 0;
    for (ssize_t got; (got = read(ends[0], text + len, sizeof text - 1 - len)) > 0;) {
        len += (size_t)got;
    }
    close(ends[0]);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK(strstr(text, "jita: freed before: the executor at 0x") != NULL);
}

int main(void) {
    for (size_t i = 0; i < STRATEGY_COUNT; i++) {
        jita_arena *arena = create(STRATEGIES[i], 0);
        if (arena == NULL) {
            continue;
        }
        frees_wrongly(arena);
        publishes_wrongly(arena, strcmp(STRATEGIES[i], "mprotect") == 0);
        calls_out_of_order(arena);
        passes_nulls_and_nonsense(arena);
        uses_what_is_another_threads(arena);
        OK(jita_collect(arena));
        OK(jita_verify(arena));
        OK(jita_destroy(arena));
        printf("%s: ok\n", STRATEGIES[i]);
    }
    uses_handles_that_are_none();
    detaches_and_goes_on();
    jita_arena *arena = create(NULL, 0);
    aborts_if_told_to(arena);
    OK(jita_destroy(arena));
    return 0;
}
