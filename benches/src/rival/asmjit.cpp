// The few calls of asmjit's JitAllocator that the benchmark makes, with C
// linkage. The allocator locks by itself.
#include <asmjit/core.h>

using asmjit::JitAllocator;

extern "C" {

void *asmjit_shim_new() {
  JitAllocator::CreateParams params;
  params.options = asmjit::JitAllocatorOptions::kUseDualMapping;
  return new JitAllocator(&params);
}

void asmjit_shim_delete(void *allocator) {
  delete static_cast<JitAllocator *>(allocator);
}

int asmjit_shim_alloc(void *allocator, size_t size, void **executable, void **writable) {
  return static_cast<int>(static_cast<JitAllocator *>(allocator)->alloc(executable, writable, size));
}

int asmjit_shim_release(void *allocator, void *executable) {
  return static_cast<int>(static_cast<JitAllocator *>(allocator)->release(executable));
}

void asmjit_shim_usage(void *allocator, size_t *used, size_t *reserved) {
  JitAllocator::Statistics statistics = static_cast<JitAllocator *>(allocator)->statistics();
  *used = statistics.usedSize();
  *reserved = statistics.reservedSize();
}
}
