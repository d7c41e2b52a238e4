# Lists a Makefile's targets with what stands behind ##, in 80 columns.
BEGIN { FS = ":.*## "; indent = 25 }
/^[a-z][a-z-]*:.*## / {
  line = sprintf("  make %-17s ", $1)
  count = split($2, words, " ")
  for (n = 1; n <= count; n++) {
    if (length(line) + length(words[n]) > 79) {
      sub(/ +$/, "", line)
      print line
      line = sprintf("%*s", indent, "")
    }
    line = line words[n] " "
  }
  sub(/ +$/, "", line)
  print line
}
