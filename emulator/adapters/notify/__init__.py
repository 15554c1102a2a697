"""Mail and webhooks: how people are notified of what nobody watched."""
