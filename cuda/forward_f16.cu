#include "entries.cuh"

QUICK_SSM_ENTRIES(quick_ssm_forward_f16, Forward, Plain, Half)
QUICK_SSM_LARGE_ENTRY(quick_ssm_forward_f16, Forward, Plain, Half)
