"""What is an open lab? Its environment, journal, hypervisor, plan and clusters: what every verb works with."""
