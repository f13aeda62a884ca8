// The kernels with tiles of a few elements: small problems have many tiles, and every level of the look-back works.
#define QUICK_SSM_NAMESPACE quick_ssm_tiny
#define QUICK_SSM_FORWARD_F32 2, 2, 2, 4, 1, 2, 2
#define QUICK_SSM_FORWARD_F16 2, 2, 2, 8, 1, 1, 2
#define QUICK_SSM_FORWARD_BF16 2, 4, 2, 4, 1, 2, 2
#define QUICK_SSM_FORWARD_F64 1, 2, 4, 4, 1, 2, 2
#define QUICK_SSM_BACKWARD_F32 2, 2, 2, 4, 1, 2, 2
#define QUICK_SSM_BACKWARD_F16 2, 2, 2, 8, 1, 2, 2
#define QUICK_SSM_BACKWARD_BF16 2, 4, 2, 4, 1, 2, 2
#define QUICK_SSM_BACKWARD_F64 1, 2, 4, 2, 1, 2, 2
#define QUICK_SSM_GATED_FORWARD_F32 2, 2, 2, 4, 1, 2, 2
#define QUICK_SSM_GATED_FORWARD_F16 2, 2, 4, 4, 1, 1, 2
#define QUICK_SSM_GATED_FORWARD_BF16 2, 4, 2, 4, 1, 2, 2
#define QUICK_SSM_GATED_FORWARD_F64 1, 2, 4, 4, 1, 2, 2
#define QUICK_SSM_GATED_BACKWARD_F32 2, 2, 2, 4, 1, 2, 2
#define QUICK_SSM_GATED_BACKWARD_F16 4, 2, 2, 8, 1, 2, 2
#define QUICK_SSM_GATED_BACKWARD_BF16 2, 4, 2, 4, 1, 2, 2
#define QUICK_SSM_GATED_BACKWARD_F64 1, 2, 4, 2, 1, 2, 2
#define QUICK_SSM_NARROW_FORWARD_F32 2, 2, 2, 4, 1, 2, 1
#define QUICK_SSM_NARROW_FORWARD_F16 2, 4, 2, 4, 1, 1, 1
#define QUICK_SSM_NARROW_FORWARD_BF16 4, 2, 1, 8, 1, 2, 1
#define QUICK_SSM_NARROW_FORWARD_F64 1, 2, 2, 4, 1, 2, 1
#define QUICK_SSM_NARROW_BACKWARD_F32 2, 4, 2, 4, 1, 2, 1
#define QUICK_SSM_NARROW_BACKWARD_F16 2, 2, 2, 4, 1, 2, 1
#define QUICK_SSM_NARROW_BACKWARD_BF16 4, 2, 1, 8, 1, 2, 1
#define QUICK_SSM_NARROW_BACKWARD_F64 1, 2, 2, 2, 1, 2, 1
#define QUICK_SSM_NARROW_GATED_FORWARD_F32 2, 2, 2, 4, 1, 2, 1
#define QUICK_SSM_NARROW_GATED_FORWARD_F16 2, 4, 2, 4, 1, 1, 1
#define QUICK_SSM_NARROW_GATED_FORWARD_BF16 4, 2, 1, 8, 1, 2, 1
#define QUICK_SSM_NARROW_GATED_FORWARD_F64 1, 2, 2, 4, 1, 2, 1
#define QUICK_SSM_NARROW_GATED_BACKWARD_F32 2, 2, 2, 4, 1, 2, 1
#define QUICK_SSM_NARROW_GATED_BACKWARD_F16 2, 4, 2, 4, 1, 2, 1
#define QUICK_SSM_NARROW_GATED_BACKWARD_BF16 4, 2, 1, 8, 1, 2, 1
#define QUICK_SSM_NARROW_GATED_BACKWARD_F64 1, 2, 2, 2, 1, 2, 1
#include "kernels.inc"

const simt::KernelTable& tiny_kernels() { return quick_ssm_tiny::kernel_table(); }
