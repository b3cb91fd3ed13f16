"""Where ingestion and serving meet: the types, the Milvus schema, the catalog and the embedding model."""
