// SPDX-License-Identifier: Apache-2.0
// Network namespaces by path: entering one on a thread of its own, and its cookie (netns_cookie.cc).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "result.h"
#include "unique_fd.h"

namespace lb {

// path "": the caller's.
Result<UniqueFd> open_netns(const std::string& operation, const std::string& path);
// Runs `work` on a new thread inside the namespace; the calling thread stays where it is.
Status in_netns(int netns_fd, const std::function<Status()>& work);
Result<uint64_t> netns_cookie(int netns_fd);

}  // namespace lb
