"""The attention sink on real models: the study of `lagkit.studies.sink`, its rows and their page."""
