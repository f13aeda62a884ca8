#include "entries.cuh"

QUICK_SSM_ENTRIES(quick_ssm_forward_bf16, Forward, Plain, BFloat)
