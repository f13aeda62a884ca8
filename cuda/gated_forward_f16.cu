#include "entries.cuh"

QUICK_SSM_ENTRIES(quick_ssm_gated_forward_f16, Forward, Gated, Half)
