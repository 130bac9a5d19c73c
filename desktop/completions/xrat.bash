# Completes xrat in bash: the words come from the program itself.
_xrat() {
    local word meaning current="$2" cut="" IFS=$'\n'
    local -a words=() found=() meanings=()
    # Bash makes three words of --sort=name; the program wants one, and bash the part after the sign.
    for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
        if [[ $word == = && ${#words[@]} -gt 0 && ${words[-1]} == --* ]]; then
            words[-1]+="="
        elif [[ ${#words[@]} -gt 0 && ${words[-1]} == --*= ]]; then
            words[-1]+="$word"
        else
            words+=("$word")
        fi
    done
    [[ ${words[-1]} == --*=* ]] && cut="${words[-1]%%=*}="
    COMPREPLY=()
    while IFS=$'\t' read -r word meaning; do
        found+=("${word#"$cut"}")
        meanings+=("$meaning")
    done < <("${COMP_WORDS[0]}" __complete "${words[@]}" 2>/dev/null | sed 's/^\tfiles$/*/')
    if [[ ${#found[@]} -eq 1 && ${found[0]} == "*" ]]; then
        COMPREPLY=($(compgen -f -- "$current"))
        compopt -o filenames
    elif [[ ${#found[@]} -eq 1 ]]; then
        printf -v "COMPREPLY[0]" %q "${found[0]}"
    else
        # A number says little: its name stands beside it as long as there is a choice.
        local at
        for at in "${!found[@]}"; do
            if [[ ${found[at]} == [0-9]* ]]; then
                COMPREPLY+=("${found[at]} (${meanings[at]})")
            else
                COMPREPLY+=("$(printf %q "${found[at]}")")
            fi
        done
    fi
}
complete -F _xrat xrat
