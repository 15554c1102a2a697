"""What does each verb do? One use case per verb, over an open lab."""
