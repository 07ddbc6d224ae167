// Attention within shifted windows and its gradient.
#pragma once
#include "window_backward.h"
#include "window_forward.h"
