// The kernels with tiles of a few elements.
#define QUICK_SSM_NAMESPACE quick_ssm_tiny
#define QUICK_SSM_TILES "tiles_tiny.inc"
#include "kernels.inc"

const simt::KernelTable& tiny_kernels() { return quick_ssm_tiny::kernel_table(); }
