#include "entries.cuh"

QUICK_SSM_ENTRIES(quick_ssm_backward_bf16, Backward, Plain, BFloat)
QUICK_SSM_LARGE_ENTRY(quick_ssm_backward_bf16, Backward, Plain, BFloat)
