/* Each function of the interface as it is meant to be used, on every strategy that
 * the machine has. */
#include "check.h"

static uint32_t helper(void) { return 4711; }

static int messages;

static void count_message(void *context, int level, const char *message) {
    CHECK(level >= JITA_LOG_ERROR && level <= JITA_LOG_INFO && message[0] != 0);
    ++*(int *)context;
}

static void writes_and_runs(jita_arena *arena) {
    jita_block blocks[8];
    ptrdiff_t offset;
    int is_fixed;
    OK(jita_write_offset(arena, &offset, &is_fixed));
    OK(jita_write_open(arena));
    for (uint32_t i = 0; i < 8; i++) {
        OK(jita_alloc(arena, LOAD_LEN + 100 * i, 4, 4, &blocks[i]));
        CHECK(blocks[i].data % 4 == 0 && blocks[i].data >= LOAD_LEN + 100 * i);
        CHECK(blocks[i].len == blocks[i].data + 4);
        CHECK(!is_fixed || (char *)blocks[i].rw - (char *)blocks[i].rx == offset);
    }
    OK(jita_write_open(arena)); /* they nest */
    for (uint32_t i = 0; i < 8; i++) {
        memset(blocks[i].rw, 0xCC, blocks[i].len);
        emit_load(blocks[i].rw, blocks[i].data);
        uint32_t value = 1000 + i;
        memcpy((char *)blocks[i].rw + blocks[i].data, &value, sizeof value);
    }
    OK(jita_write_close(arena));
    OK(jita_write_close(arena));
    for (uint32_t i = 0; i < 8; i++) {
        OK(jita_publish(arena, blocks[i].rx));
    }
    OK(jita_enter(arena, NULL, NULL));
    for (uint32_t i = 0; i < 8; i++) {
        CHECK(call(blocks[i].rx) == 1000 + i);
    }
    OK(jita_exit(arena));
    for (uint32_t i = 0; i < 8; i++) {
        OK((i % 2 ? jita_free : jita_free_quiescent)(blocks[i].rx));
    }
    /* Allocated outside a scope, written in one, and given back unpublished. */
    OK(jita_alloc(arena, CONSTANT_LEN, 0, 1, &blocks[0]));
    OK(jita_alloc(arena, CONSTANT_LEN, 0, 1, &blocks[1]));
    OK(jita_write_open(arena));
    emit_constant(blocks[0].rw, 1);
    OK(jita_write_close(arena));
    OK(jita_write_open(arena)); /* again, before it is published */
    emit_constant(blocks[0].rw, 2);
    OK(jita_write_close(arena));
    OK(jita_publish(arena, blocks[0].rx));
    CHECK(call(blocks[0].rx) == 2);
    OK(jita_free(blocks[1].rx));
    OK(jita_free(blocks[0].rx));
}

static void looks_up(jita_arena *arena) {
    jita_layout layout;
    jita_block block;
    jita_code code;
    memset(&layout, 0, sizeof layout);
    layout.size = sizeof layout;
    layout.code_len = CONSTANT_LEN;
    layout.code_align = 256;
    layout.data_len = 10;
    layout.tag = 99;
    OK(jita_alloc_layout(arena, &layout, &block));
    CHECK((uintptr_t)block.rx % 256 == 0 && block.data == CONSTANT_LEN);
    OK(jita_write_open(arena));
    emit_constant(block.rw, 3);
    OK(jita_write_close(arena));
    RETURNS(JITA_EMPTY, jita_lookup(block.rx, &code));
    OK(jita_publish(arena, block.rx));
    OK(jita_lookup((char *)block.rx + 5, &code));
    CHECK(code.code == block.rx && code.code_len == CONSTANT_LEN && code.tag == 99);
    CHECK((const char *)code.data == (char *)block.rx + block.data && code.data_len == 10);
    RETURNS(JITA_EMPTY, jita_lookup(address_of(helper), &code));
    CHECK(jita_contains(arena, block.rx) && !jita_contains(arena, address_of(helper)));
    OK(jita_free(block.rx));
}

static void jumps_to_helpers(jita_arena *arena) {
    const void *jump, *again, *targets[2] = {address_of(helper), (const void *)&messages};
    jita_block block;
    OK(jita_make_trampolines(arena, targets, 2));
    OK(jita_trampoline(arena, targets[0], &jump));
    OK(jita_trampoline(arena, targets[0], &again));
    CHECK(jump == again && jita_contains(arena, jump));
    OK(jita_write_open(arena));
    OK(jita_alloc(arena, JUMP_LEN, 0, 1, &block));
    OK(jita_call_target(arena, block.rx, targets[0], &jump));
    emit_jump(block.rw, block.rx, jump);
    OK(jita_write_close(arena));
    OK(jita_publish(arena, block.rx));
    CHECK(call(block.rx) == 4711);
    OK(jita_free(block.rx));
}

static void runs_and_parks(jita_arena *arena) {
    void *word = NULL, *rx = NULL;
    jita_stats stats;
    stats.size = sizeof stats;
    OK(jita_collect(arena)); /* what was freed so far */
    RETURNS(JITA_EMPTY, jita_enter(arena, &word, &rx));
    word = install(arena, 5);
    void *first = word;
    OK(jita_enter(arena, &word, &rx));
    CHECK(rx == word && call(rx) == 5);
    OK(jita_safepoint(arena));
    /* Replaced and freed while it runs: it stays until the exit. */
    word = install(arena, 6);
    OK(jita_free(first));
    OK(jita_park(arena));
    OK(jita_enter(arena, &word, &rx)); /* code calls back */
    CHECK(call(rx) == 6);
    OK(jita_exit(arena));
    OK(jita_unpark(arena));
    OK(jita_collect(arena));
    OK(jita_stats_read(arena, &stats));
    CHECK(stats.retired_executors == 1 && call(first) == 5);
    OK(jita_exit(arena));
    OK(jita_collect(arena));
    OK(jita_stats_read(arena, &stats));
    CHECK(stats.retired_executors == 0);
    OK(jita_free(word));
    /* Parked outside code: nothing to let go of. */
    OK(jita_park(arena));
    OK(jita_park(arena));
    OK(jita_unpark(arena));
    OK(jita_unpark(arena));
}

static void tells_figures(jita_arena *arena) {
    char text[2048], small[10];
    size_t len, again;
    jita_stats stats;
    void *code = install(arena, 1);
    memset(&stats, 0xEE, sizeof stats);
    stats.size = offsetof(jita_stats, retired_executors);
    OK(jita_stats_read(arena, &stats));
    CHECK(stats.size == offsetof(jita_stats, retired_executors));
    CHECK(stats.live_executors == 1 && stats.live_bytes == CONSTANT_LEN);
    CHECK(stats.retired_executors == 0xEEEEEEEEEEEEEEEE); /* beyond what was asked for */
    OK(jita_stats_json(arena, text, sizeof text, &len));
    CHECK(len == strlen(text) && text[0] == '{' && text[len - 1] == '}');
    CHECK(strstr(text, "\"live_executors\":1,\"live_bytes\":12,") != NULL);
    OK(jita_stats_json(arena, small, sizeof small, &again));
    CHECK(again > 9 && strlen(small) == 9 && memcmp(small, text, 9) == 0);
    OK(jita_report(arena, NULL, 0, &len));
    OK(jita_report(arena, text, sizeof text, NULL));
    CHECK(strlen(text) == len && strstr(text, "strategy: ") == text);
    OK(jita_free(code));
}

int main(void) {
    jita_set_log(count_message, &messages);
    CHECK(strcmp(jita_version(), "0.1.0") == 0);
    CHECK(strcmp(jita_last_error(), "") == 0);
    for (size_t i = 0; i < STRATEGY_COUNT; i++) {
        int before = messages;
        jita_arena *arena = create(STRATEGIES[i], 0);
        CHECK(messages == before + 1); /* a report or a refusal */
        if (arena == NULL) {
            continue;
        }
        writes_and_runs(arena);
        looks_up(arena);
        jumps_to_helpers(arena);
        runs_and_parks(arena);
        tells_figures(arena);
        OK(jita_collect(arena));
        OK(jita_verify(arena));
        OK(jita_destroy(arena));
        printf("%s: ok\n", STRATEGIES[i]);
    }
    jita_arena *arena = create(NULL, JITA_RANDOM_PLACEMENT);
    writes_and_runs(arena);
    OK(jita_verify(arena));
    OK(jita_destroy(arena));
    OK(jita_create(NULL, &arena));
    void *left = install(arena, 8);
    CHECK(call(left) == 8);
    int before = messages;
    OK(jita_destroy(arena));
    CHECK(messages == before + 1); /* a warning: one piece of code was left */
    jita_set_log(NULL, NULL);
    return 0;
}
