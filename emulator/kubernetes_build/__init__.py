"""Where a lab's Kubernetes comes from: releases built, bundled, checked and cached on this host."""
