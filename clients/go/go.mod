module qwen3guard/clients/go

go 1.25.0
