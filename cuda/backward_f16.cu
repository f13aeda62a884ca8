#include "entries.cuh"

QUICK_SSM_ENTRIES(quick_ssm_backward_f16, Backward, Plain, Half)
QUICK_SSM_LARGE_ENTRY(quick_ssm_backward_f16, Backward, Plain, Half)
