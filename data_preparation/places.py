"""Folders that the commands use by default."""

DOWNLOADS = "./data_folder/datasets"
EXTRACTED = "./data_folder/extracted_data_without_preprocessing"
STORE = "./data_folder/data_summary_without_preprocessing"
