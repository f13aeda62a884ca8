// The kernels with the tiles they have on a GPU.
#include "kernels.inc"

const simt::KernelTable& real_kernels() { return quick_ssm::kernel_table(); }
