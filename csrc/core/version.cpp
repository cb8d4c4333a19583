#include "core/version.hpp"

namespace chronoward {

int rules_version() noexcept { return 1; }

}  // namespace chronoward
