"""``preheat up``: serverless on one machine. A gateway that holds requests while instances start, and
scales each function from zero on its concurrency.

Development, edge boxes, load tests; production scale is Lambda's and Knative's job.
"""
