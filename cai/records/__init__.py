"""What flows between the stages: frozen records, the journals they are kept in, and the plans they fulfil."""
