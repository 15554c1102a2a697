"""When does a service start, start again and end? Its records, its states and the supervisor's loop."""
