#include "entries.cuh"

QUICK_SSM_ENTRIES(quick_ssm_gated_forward_bf16, Forward, Gated, BFloat)
