"""The kinds of messages, and what their numbers may be."""

MetricValues = dict[str, int | float | list[int] | list[float]]
"""What a MetricRecord may hold."""

DESCRIBE, LOCAL, SITE = "describe", "local", "site"
DESCRIBE_TYPE, LOCAL_TYPE, SITE_TYPE = f"query.{DESCRIBE}", f"train.{LOCAL}", f"evaluate.{SITE}"
