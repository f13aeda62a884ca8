#include "entries.cuh"

QUICK_SSM_ENTRIES(quick_ssm_forward_bf16, Forward, Plain, BFloat)
QUICK_SSM_LARGE_ENTRY(quick_ssm_forward_bf16, Forward, Plain, BFloat)
