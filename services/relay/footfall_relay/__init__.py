"""The relay service: events and erasures go out to webhooks, Kafka and Parquet files."""
