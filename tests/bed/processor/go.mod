module lazaret.dev/bed/processor

go 1.21
