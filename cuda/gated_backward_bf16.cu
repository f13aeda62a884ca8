#include "entries.cuh"

QUICK_SSM_ENTRIES(quick_ssm_gated_backward_bf16, Backward, Gated, BFloat)
